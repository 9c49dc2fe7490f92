def drop_value(head, value):
    while head and head.value == value:
        head = head.successor
    node = head
    while node and node.successor:
        if node.successor.value == value:
            node.successor = node.successor.successor
        node = node.successor
    return head

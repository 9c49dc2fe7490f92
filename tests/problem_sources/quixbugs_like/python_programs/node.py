class Node:
    def __init__(
        self, value=None, successor=None, successors=None, predecessors=None, incoming_nodes=None, outgoing_nodes=None
    ):
        self.value = value
        self.successor = successor
        self.successors = successors
        self.predecessors = predecessors
        self.incoming_nodes = incoming_nodes
        self.outgoing_nodes = outgoing_nodes

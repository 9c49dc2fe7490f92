"""How jobs reach lanes of other processes and machines: tickets, claims and beats in the store."""

from coral_core.jobs.jobs import QueueName
from coral_core.queue.lane_board import DoneJob, LaneBoard, LaneNote, Recent, Served, lane_name
from coral_core.queue.queue import Claim, FailedTicket, JobQueue
from coral_core.queue.tickets import LOST, Failure, Job, JobKind, Ticket, is_answer, kind_of, queue_of

__all__ = [
    "LOST",
    "Claim",
    "DoneJob",
    "FailedTicket",
    "Failure",
    "Job",
    "JobKind",
    "JobQueue",
    "LaneBoard",
    "LaneNote",
    "QueueName",
    "Recent",
    "Served",
    "Ticket",
    "is_answer",
    "kind_of",
    "lane_name",
    "queue_of",
]

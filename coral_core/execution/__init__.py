"""Executors: take jobs, return futures. Inline and local work here; work pools are in flows/work_pools."""

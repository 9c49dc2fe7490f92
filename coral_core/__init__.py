"""CORAL-X: finds the best adapter for a code model within a budget. The engine; knows nothing of Prefect."""

__version__ = "0.2.0"

"""From a problem to a prompt, and from a completion to a patch."""

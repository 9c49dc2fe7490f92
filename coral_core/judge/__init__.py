"""The judge: runs a patch on the recorded cases of a problem in a sandbox and says which pass. Usable by itself."""

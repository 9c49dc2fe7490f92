"""Reports of runs: as data (`Report`), as text, as pictures, and as an exported champion.

`build_report.build_report` reads a run folder and the store. The other modules only render
what it returns. Unfinished and killed runs can be reported too.
"""

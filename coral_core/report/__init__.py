"""What a run found, as data (`Report`), text, pictures and an exported champion.

`gather.build_report` reads a run folder and the store; everything else only renders
what it returns. A run that is still under way, or was killed, can be reported too.
"""

"""`macat`: send and receive messages from a shell, with the flags of mangos' macat and of nanocat.

Exit codes, as the original's: 0 it worked, 1 it did not, or it was asked wrongly; messages go to standard error as
`macat: what was wrong`.
"""

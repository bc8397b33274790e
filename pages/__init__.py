"""The manual pages and shell completions, made from the definitions of the commands and the texts in docs/man.

An option is described once, in the code that reads it. What is made is committed, because what installs it has neither
docutils nor shtab; `make pages` makes it again.
"""

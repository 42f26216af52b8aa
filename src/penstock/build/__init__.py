"""From a commit to a packed, stored version.

    checkout -> train -> pack

`detect` says what would run, `starter` writes a first project. Nothing here reads a model
file or imports a project's code: that happens in the sandbox only.
"""

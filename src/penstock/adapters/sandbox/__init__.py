"""The sandbox of this machine; start reading in `local`.

local      which level holds here, and how a command is started
isolation  the command line of bubblewrap
holder     the program that holds a command where bubblewrap does not, or keeps its log
users      users of their own for commands, where the server is root
memory     what a command and its descendants use
"""

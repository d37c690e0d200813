"""The whole road in one command: stages that are made once, gone on with, and made again."""

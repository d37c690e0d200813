"""The user's text, whatever form it has: blocks of whole documents."""

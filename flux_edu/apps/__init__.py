"""Ready to use: one picture, many pictures, the tools, and whether all works here."""

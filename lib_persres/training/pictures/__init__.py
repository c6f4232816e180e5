"""Pictures that users give: found in folders, read from files of any kind, and decoded within stated bounds."""

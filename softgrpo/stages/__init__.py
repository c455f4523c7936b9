"""The stages: each is a function of (settings, folders) to a folder, one module per stage, because the key of a stage follows
its imports."""

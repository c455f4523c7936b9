"""How a stage is identified, stored, planned and run; it imports the module of no stage."""

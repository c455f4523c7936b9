"""How a stage is identified, stored, planned and run; a stage is known here by its name only."""

"""From a call to the plan of its launches: pure Python, the same for every launcher."""

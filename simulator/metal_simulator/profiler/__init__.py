"""The build that counts: instructions, registers, memory, and a cost model of Apple's chips."""

"""llama.cpp, and what is said in its terms."""

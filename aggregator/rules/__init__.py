"""Alert rules: what they are, where they are read from, and how they are evaluated."""

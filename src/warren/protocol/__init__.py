"""What is said on the wire, as pure values: requests, replies, bounces, deadlines, bodies and signatures."""

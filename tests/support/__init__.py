"""What tests of several parts share: what the machine must have, and what a test left behind."""

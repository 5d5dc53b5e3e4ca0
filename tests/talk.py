"""A conversation that tests sum up: eight turns, as many as one must have."""

TALK = (
    "Ann: The boiler makes a loud noise again.",
    "Bob: Since when?",
    "Ann: Since Monday, 12 May.",
    "Bob: I will bring a new valve on Friday.",
    "Ann: What does the valve cost?",
    "Bob: The valve costs 40 euros.",
    "Ann: Good. The key is with my neighbour.",
    "Bob: See you on Friday.",
)

"""A folder of somebody's notes, questions that they answer, and questions that they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NOTES = {
    "house/cellar.md": """# Cellar
The pump in the cellar was replaced on 12 May 2024 by Meyer. It moves 40 litres a minute.

# Boiler
The boiler is serviced every year in October. Its pressure must stay below 2.5 bar.

# Fuse box
The fuse of the kitchen is number 7. The fuse of the garage is number 12.
""",
    "house/garden.md": """# Apple tree
The apple tree was planted in 1998. It is pruned in February.

# Lawn
The lawn mower needs unleaded petrol. Its blade was sharpened in April.

# Beehive
The beehive stands behind the greenhouse. Honey is harvested in July.
""",
    "family.txt": """The birthday of aunt Clara is on 3 March. She likes liquorice.
Uncle Boris lives in Lisbon. His telephone number ends in 4471.
The dentist of the children is Dr. Okafor. Her practice is in Mill Street.

The passport of Ada expires in August 2031. It lies in the green folder.
""",
    "work/server.md": """# Backup server
The backup server is called heron. Its backups start at 02:30 every night.

# Printer
The printer in the office takes toner of type TN-2420. It is leased until June 2027.
""",
    "work/prices.py": '''"""Prices of the shop."""


def shipping(weight):
    """Return the price of shipping: 4.90 euros up to 2 kilograms, then 9.50 euros."""
    return 4.90 if weight <= 2 else 9.50


def discount(total):
    """Return the discount of loyal customers, which is 3 percent from 100 euros on."""
    return 0.03 * total if total >= 100 else 0.0
''',
}
#: Questions, and what stands in the line that answers each.
ANSWERED = {
    "When was the pump in the cellar replaced?": "12 May 2024",
    "How much does the pump in the cellar move?": "40 litres",
    "When is the boiler serviced?": "October",
    "What must the pressure of the boiler stay below?": "2.5 bar",
    "Which number is the fuse of the kitchen?": "number 7",
    "Which number is the fuse of the garage?": "number 12",
    "When was the apple tree planted?": "1998",
    "When is the apple tree pruned?": "February",
    "What petrol does the lawn mower need?": "unleaded",
    "Where does the beehive stand?": "behind the greenhouse",
    "When is the honey harvested?": "July",
    "When is the birthday of aunt Clara?": "3 March",
    "Where does uncle Boris live?": "Lisbon",
    "Who is the dentist of the children?": "Okafor",
    "When does the passport of Ada expire?": "August 2031",
    "What is the backup server called?": "heron",
    "When do the backups of the server start?": "02:30",
    "Which toner does the printer in the office take?": "TN-2420",
    "What is the price of shipping up to 2 kilograms?": "4.90",
    "What is the discount of loyal customers?": "3 percent",
}
UNANSWERED = (
    "How tall is Mount Everest?",
    "Who won the football match last night?",
    "What is the capital of Mongolia?",
    "How do I bake sourdough bread?",
    "Which planet has the most moons?",
    "What does photosynthesis produce?",
    "Who wrote the novel Middlemarch?",
    "How long does it take to sail across the Atlantic?",
    "What is the boiling point of ethanol?",
    "Which instruments does a string quartet have?",
)


def write_notes(folder: Path) -> Path:
    """Write the notes into a folder."""
    for name, text in NOTES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder

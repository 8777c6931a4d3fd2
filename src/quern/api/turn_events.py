"""A turn's events as a stream that can be taken up again: what was missed, then what happens.

An event of the answer has a number, the same whenever it is told: `id`. What only the end brought (text that might have
become a stop string, a call that was cut off) has none where the turn may go on, for it would come otherwise then. The
terminal event's id says both what was told before and that the end was seen.
"""

from __future__ import annotations

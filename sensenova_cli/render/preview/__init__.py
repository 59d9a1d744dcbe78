"""Pictures in the terminal: how they can be shown there, finished ones, and those that are still forming.

preview = Preview.choose(console, settings.preview)
preview.show(image)                 # a finished picture, below what was printed so far
preview.show_several(images)  # the same as contact sheets, with their numbers
forming = preview.live()            # a renderable for a Live display, or None
"""

from sensenova_cli.render.preview.sheet import contact_sheet
from sensenova_cli.render.preview.show import LIVE_SIZE, LivePreview, Preview

__all__ = ["LIVE_SIZE", "LivePreview", "Preview", "contact_sheet"]

"""Pictures in the terminal, finished or still forming.

preview = Preview.choose(console, settings.preview)
preview.show(image)           # print a finished picture
preview.show_several(images)  # print numbered pictures as contact sheets
forming = preview.live()      # a renderable for a Live display, or None
"""

from sensenova_cli.render.preview.detect import has_links
from sensenova_cli.render.preview.sheet import contact_sheet
from sensenova_cli.render.preview.show import HALF, LIVE_SIZE, SCREEN, SMALL, LivePreview, Preview

__all__ = ["HALF", "LIVE_SIZE", "SCREEN", "SMALL", "LivePreview", "Preview", "contact_sheet", "has_links"]

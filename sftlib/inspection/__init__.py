"""Look at labelled pictures before anything is trained on them: what is odd, copied, or perhaps labelled wrong.

Nothing is deleted or moved: `look_over` says what it saw, and `write_list` writes the table of the files that shall
stay, which `sftlib.datasets.image_folder.load(root, labels=…)` takes.
"""

from sftlib.inspection.copies import copies
from sftlib.inspection.labels import Suspects, likely_label_errors
from sftlib.inspection.lists import write_list
from sftlib.inspection.overview import look_over
from sftlib.inspection.remarks import Remark, Remarks

__all__ = ["Remark", "Remarks", "Suspects", "copies", "likely_label_errors", "look_over", "write_list"]

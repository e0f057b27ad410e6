"""Work that takes long or reads what strangers sent: done by child processes of a worker, one job each.

A child gets files and a recipe, and gives back files and figures. It holds no keys, no database, no storage credentials; the
worker stores, signs and enters what came out.
"""

# Names of the files that a worker and its child exchange in the job's folder.
FULL_FILE = "full.dfm"
BASE_FILE = "base.dfm"
NEW_FILE = "new.dfm"
DELTA_FILE = "delta.dfd"

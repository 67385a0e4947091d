"""AWS's public price list: what its files say, as prices of a book's items.

Pure: lines or text in, prices out. `csv_file` and `json_file` read the two forms of an offer file
into the same rows; `matching` finds the items among them, `ec2` the instances. Fetching the files
is for `download.py`.
"""

from __future__ import annotations

from fanout.cost.price_list.csv_file import read_csv
from fanout.cost.price_list.json_file import read_items, read_json
from fanout.cost.price_list.matching import Found, find
from fanout.cost.price_list.rows import Offer, Row

__all__ = ["Found", "Offer", "Row", "find", "read_csv", "read_items", "read_json"]

"""What columns are usually called."""

import re
from collections.abc import Sequence

USERS = ("user", "userid", "uid", "reviewerid", "customerid", "visitorid", "memberid", "account", "accountid")
SESSIONS = ("session", "sessionid", "sid", "playlistid", "basketid", "orderid")
ITEMS = (
    *("item", "itemid", "iid", "movieid", "asin", "parentasin", "productid", "product", "artistid"),
    *("trackid", "songid", "videoid", "newsid", "articleid", "businessid", "bookid", "gameid"),
)
TIMES = (*("time", "timestamp", "ts", "unixreviewtime", "eventtime", "datetime", "createdat", "date", "reviewtime"),)
VALUES = ("rating", "value", "overall", "score", "weight", "stars", "price", "playcount")


def plain(name: str) -> str:
    """A heading in lower case without signs: "userID", "user_id" and "User Id" are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def pick(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The column that bears the earliest of the known names, or None."""
    by_plain = {plain(name): name for name in reversed(columns)}
    return next((by_plain[name] for name in known if name in by_plain), None)

"""Where a named place is in time: IANA zones by their own name, their city, and the names people use."""

from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

# Large cities and one-zone countries that the IANA names leave out. Zones are those of the tz database.
_ALSO = {
    "America/New_York": "Boston, Washington, Miami, Atlanta, Philadelphia, New York City, NYC, Montreal, Ottawa",
    "America/Chicago": "Dallas, Houston, Austin",
    "America/Los_Angeles": "San Francisco, Seattle, Las Vegas, San Diego, California, LA",
    "America/Sao_Paulo": "Rio de Janeiro, Rio, Brasilia",
    "Asia/Shanghai": "China, Beijing, Shenzhen",
    "Asia/Kolkata": "India, Mumbai, Delhi, New Delhi, Bangalore, Bengaluru, Chennai",
    "Asia/Tokyo": "Japan, Osaka, Kyoto",
    "Asia/Seoul": "Korea, South Korea, Busan",
    "Asia/Dubai": "Abu Dhabi, UAE",
    "Asia/Jerusalem": "Israel, Tel Aviv",
    "Asia/Bangkok": "Thailand",
    "Asia/Ho_Chi_Minh": "Vietnam, Hanoi",
    "Africa/Cairo": "Egypt",
    "Africa/Johannesburg": "South Africa, Cape Town",
    "Africa/Lagos": "Nigeria",
    "Africa/Nairobi": "Kenya",
    "Europe/Berlin": "Germany, Hamburg, Munich, Frankfurt, Cologne",
    "Europe/Rome": "Italy, Milan, Naples, Florence",
    "Europe/Paris": "France, Lyon, Marseille",
    "Europe/Madrid": "Spain, Barcelona",
    "Europe/London": "England, UK, United Kingdom, Britain, Scotland, Edinburgh, Manchester",
    "Europe/Zurich": "Switzerland, Geneva, Basel, Bern",
    "Europe/Amsterdam": "Netherlands",
    "Europe/Athens": "Greece",
    "Europe/Dublin": "Ireland",
    "Europe/Lisbon": "Portugal",
    "Europe/Stockholm": "Sweden",
    "Europe/Oslo": "Norway",
    "Europe/Vienna": "Austria",
    "Europe/Warsaw": "Poland",
    "Europe/Istanbul": "Turkey, Ankara",
    "Europe/Moscow": "Saint Petersburg",
}


def zone_of(place: str) -> ZoneInfo | None:
    """The time zone of an IANA name or a city; None for a place nobody listed."""
    name = _zone_names().get(_folded(place))
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


@cache
def _zone_names() -> dict[str, str]:
    names: dict[str, str] = {}
    # Short names first, so that Indiana/Knox style names never hide a plain city.
    for zone in sorted(available_timezones() | {"UTC"}, key=lambda name: (name.count("/"), name)):
        names.setdefault(_folded(zone), zone)
        if "/" in zone and not zone.startswith(("Etc/", "posix/", "right/")):
            names.setdefault(_folded(zone.rpartition("/")[2]), zone)
    for zone, places in _ALSO.items():
        names |= {_folded(place): zone for place in places.split(", ")}
    return names


def _folded(place: str) -> str:
    return " ".join(place.replace("_", " ").split()).casefold()

"""Long experiments behind the documented figures; no part of the installed package."""

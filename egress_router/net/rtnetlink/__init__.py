"""Links, addresses, routes and policy rules by rtnetlink(7)."""

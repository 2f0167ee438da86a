"""The product's sentence in other people's words. Imported when such a route is first asked for."""

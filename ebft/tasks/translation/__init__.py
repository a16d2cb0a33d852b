"""English and French sentences and all their translations, from a small grammar."""

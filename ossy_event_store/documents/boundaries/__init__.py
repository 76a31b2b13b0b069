"""Pure: tags, queries over them, and the places that events take in them."""

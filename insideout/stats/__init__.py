"""What a label table says of a film: how long each character shows each emotion, and how sure that is."""

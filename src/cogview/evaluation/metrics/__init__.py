"""What is measured: distances of sets of images, shares with intervals, colours, the rules of scenes."""

"""What goes in: images, labels, class names, views, batches."""

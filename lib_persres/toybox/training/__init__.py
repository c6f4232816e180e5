"""What the Toybox is made by: its autoencoder, its UNet and text encoder, its judge and its CLIP."""

"""Peers under one budget: scratch, autoencoders, SimCLR, PeCLR and TI, pretrained and fine-tuned alike."""

"""Network parts that more than one domain uses, as plain `nn.Module` objects and functions."""

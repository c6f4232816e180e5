"""What the figures are measured by; no part of the package."""

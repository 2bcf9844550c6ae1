"""`python -m train.prepare`: prepares training records from web images, on many machines."""

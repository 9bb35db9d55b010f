"""What is measured, the results, and the pages made from them."""

"""Everything that needs a GPU, in three commands of under ten minutes each."""

"""What several tests share: cases, small networks, files, processes."""

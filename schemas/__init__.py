"""What a change is: pure values and codecs. No sockets, threads or clock."""

"""What asks a serving system: requests with their arrival times and lengths, from traces and from distributions."""

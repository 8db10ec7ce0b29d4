"""What is made of a finished run: pictures and the HTML report."""

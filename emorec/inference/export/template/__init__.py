"""Files that are copied into the folder of an export; they import nothing of emorec."""

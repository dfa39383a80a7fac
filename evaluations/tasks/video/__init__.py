"""What a video model is asked: clips drawn here (`rendered`) and clips of a public set of images (`easy_vqa`)."""
